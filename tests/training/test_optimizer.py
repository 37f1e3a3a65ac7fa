from __future__ import annotations

import torch
from torch import nn

from rs4d_edge.training.optimizer import WeightAverage, build_optimizer
from rs4d_edge.training.settings import TrainSettings


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.A_log = nn.Parameter(torch.zeros(2, 4))
        self.pos_embed = nn.Parameter(torch.zeros(1, 2, 2))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_only_maps_decay() -> None:
    model = Small()
    decayed, exempt = build_optimizer(model, TrainSettings(epochs=1, weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.1, 0.0)
    assert {id(value) for value in decayed["params"]} == {id(model.map.weight)}
    others = (model.map.bias, model.norm.weight, model.norm.bias, model.A_log, model.pos_embed)
    assert {id(value) for value in exempt["params"]} == {id(value) for value in others}


def test_the_average_follows_its_definition() -> None:
    model, decay = Small(), 0.2
    average = WeightAverage(model, decay)
    expected = model.map.weight.detach().clone()
    for update in (1, 2, 3):
        with torch.no_grad():
            model.map.weight.add_(1.0)
        model.state_dict()["norm.num_batches_tracked"].fill_(update)
        average.update()
        share = min(decay, (1 + update) / (10 + update))
        expected = share * expected + (1 - share) * model.map.weight.detach()
    torch.testing.assert_close(average.state["map.weight"], expected)
    assert average.state["norm.num_batches_tracked"] == 3


def test_an_average_continues_where_it_was() -> None:
    model = Small()
    average = WeightAverage(model, 0.9)
    for _ in range(2):
        with torch.no_grad():
            model.map.weight.mul_(0.5)
        average.update()
    other = WeightAverage(model, 0.9)
    other.load({name: value.clone() for name, value in average.state.items()}, average.updates)
    with torch.no_grad():
        model.map.weight.add_(3.0)
    average.update()
    other.update()
    assert torch.equal(other.state["map.weight"], average.state["map.weight"])
