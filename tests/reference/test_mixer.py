"""The mixer against transformers' MambaMixer, against flipping, and against a plain convolution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rs4d_edge.errors import InputError
from rs4d_edge.reference.config import EncoderConfig, PathType
from rs4d_edge.reference.mixer import Mixer, depthwise_conv, depthwise_conv_reference


def make_config(path: PathType) -> EncoderConfig:
    return EncoderConfig(channels=24, depth=1, inner_channels=40, state_size=5, image_size_hw=(64, 64), path=path)


def hugging_face_mixer(config: EncoderConfig, mixer: Mixer) -> nn.Module:
    mamba = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    settings = mamba.MambaConfig(
        hidden_size=config.channels,
        state_size=config.state_size,
        conv_kernel=config.conv_width,
        time_step_rank=config.dt_rank,
        num_hidden_layers=1,
    )
    settings.intermediate_size = config.inner_channels
    other: nn.Module = mamba.MambaMixer(settings, layer_idx=0)
    other.load_state_dict(mixer.state_dict())
    return other


def loss_and_gradients(output: Tensor, probe: Tensor, module: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    names = [name for name, _ in module.named_parameters()]
    gradients = torch.autograd.grad((output * probe).sum(), [*module.parameters(), tokens])
    return dict(zip([*names, "tokens"], gradients, strict=True))


@pytest.mark.parametrize("path", [PathType.FORWARD, PathType.FORWARD_REVERSE_MEAN])
def test_mixer_gives_what_transformers_gives(path: PathType) -> None:
    config = make_config(path)
    mixer = Mixer(config)
    with torch.no_grad():
        mixer.conv1d.weight.normal_()
        mixer.D.normal_()
        mixer.A_log.normal_()
    other = hugging_face_mixer(config, mixer)
    tokens = torch.randn(2, 33, config.channels, requires_grad=True)
    probe = torch.randn(2, 33, config.channels)
    expected = other(tokens)
    if path is PathType.FORWARD_REVERSE_MEAN:
        expected = (expected + other(tokens.flip(1)).flip(1)) / 2
    output = mixer(tokens)
    torch.testing.assert_close(output, expected, atol=2e-6, rtol=1e-4)
    ours = loss_and_gradients(output, probe, mixer, tokens)
    theirs = loss_and_gradients(expected, probe, other, tokens)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        largest = float((gradient - theirs[name]).abs().max())
        assert largest < 1e-4 * max(1.0, float(theirs[name].abs().max())), name


def test_core_is_one_operator_unless_gradients_are_recorded() -> None:
    mixer = Mixer(make_config(PathType.FORWARD_REVERSE_MEAN))
    tokens = torch.randn(2, 33, 24)

    def called() -> tuple[Tensor, set[str]]:
        with torch.profiler.profile() as profile:
            output = mixer(tokens)
        return output.detach(), {event.key for event in profile.key_averages() if event.key.startswith("rs4d::")}

    recorded, pieces = called()
    with torch.no_grad():
        fused, core = called()
    assert pieces == {"rs4d::selective_scan"} and "rs4d::mixer_core" in core
    torch.testing.assert_close(fused, recorded, atol=1e-6, rtol=1e-5)
    mixer.requires_grad_(False)
    assert "rs4d::mixer_core" in called()[1]  # nothing to be trained
    mixer.A_log.requires_grad_(True)
    assert called()[1] == pieces  # one parameter is enough, though it is not in_proj's


def test_gate_weighs_the_two_directions_by_their_means() -> None:
    mixer = Mixer(make_config(PathType.FORWARD_REVERSE_GATE))
    one_way = Mixer(make_config(PathType.FORWARD))
    one_way.load_state_dict(mixer.state_dict())
    gate = nn.Sequential(nn.Linear(48, 2, bias=False), nn.Softmax(dim=-1))
    tokens = torch.randn(3, 20, 24)
    ahead, back = one_way(tokens), one_way(tokens.flip(1)).flip(1)
    weights = gate(torch.cat([ahead.mean(1), back.mean(1)], dim=-1))[:, None]
    expected = weights[..., :1] * ahead + weights[..., 1:] * back
    torch.testing.assert_close(mixer(tokens, gate), expected, atol=1e-6, rtol=1e-4)


def test_gate_path_asks_for_its_gate() -> None:
    mixer = Mixer(make_config(PathType.FORWARD_REVERSE_GATE))
    with pytest.raises(InputError, match="gate"):
        mixer(torch.zeros(1, 4, 24))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 3, 17])
def test_depthwise_conv_is_a_sum_of_shifted_products(reverse: bool, length: int) -> None:
    tokens, weight, bias = torch.randn(2, length, 6), torch.randn(6, 1, 4), torch.randn(6)
    output = depthwise_conv(tokens, weight, bias, reverse=reverse)
    plain = depthwise_conv_reference(tokens, weight, bias, reverse=reverse)
    torch.testing.assert_close(output, plain, atol=1e-5, rtol=1e-5)
    assert output.shape == tokens.shape


def test_depthwise_conv_sees_one_side_only() -> None:
    weight, bias = torch.ones(1, 1, 4), torch.zeros(1)
    impulse = torch.zeros(1, 9, 1)
    impulse[0, 4] = 1
    ahead = depthwise_conv(impulse, weight, bias, reverse=False)[0, :, 0].nonzero().flatten().tolist()
    back = depthwise_conv(impulse, weight, bias, reverse=True)[0, :, 0].nonzero().flatten().tolist()
    assert (ahead, back) == ([4, 5, 6, 7], [1, 2, 3, 4])


def test_initial_state_parameters_follow_mamba() -> None:
    mixer = Mixer(make_config(PathType.FORWARD))
    step = nn.functional.softplus(mixer.dt_proj.bias)
    torch.testing.assert_close(mixer.A_log.exp()[0], torch.arange(1.0, 6.0))
    assert bool(((step >= 9.9e-4) & (step <= 0.101)).all())
    assert bool((mixer.D == 1).all())
