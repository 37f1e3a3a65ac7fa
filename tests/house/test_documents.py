"""What the documents promise is there: commands and options, make targets, extras, paths and links."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import rs4d_edge
from tests.house.repository import ROOT, project

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/jetson.md")
# A command's `main` stands beside its typer application, except where a device may lack what that imports.
APPLICATIONS = {"rs4d-predict": "rs4d_edge.commands.predict_terminal", "rs4d-export": "rs4d_edge.export.command"}
# What one program starts besides, by its first argument; each has options of its own.
SUBCOMMANDS = {"rs4d-export": {"build": "rs4d_edge.export.build_command"}}


def _text(name: str) -> str:
    return (ROOT / name).read_text()


def _blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", _text(name), re.DOTALL)


def _commands() -> list[list[str]]:
    """Every command line of the documents' shell blocks, split into words, comments left out."""
    blocks = [block.replace("\\\n", " ") for name in DOCUMENTS for block in _blocks(name, "bash")]
    lines = [line for block in blocks for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def _code_spans() -> set[str]:
    return {span for name in DOCUMENTS for span in re.findall(r"`([^`\n]+)`", _text(name))}


def _module(script: str) -> str:
    """Where the typer application of a program is."""
    return APPLICATIONS.get(script, str(project()["scripts"][script]).split(":")[0])


def _option_names(module: str) -> set[str]:
    command = get_command(importlib.import_module(module).app)
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def _every_module() -> set[str]:
    return {_module(script) for script in project()["scripts"]} | {
        module for subcommands in SUBCOMMANDS.values() for module in subcommands.values()
    }


def test_readme_begins_with_the_two_commands() -> None:
    first = _blocks("README.md", "bash")[0].splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["make demo", "make test"]


def test_every_make_target_exists() -> None:
    named = {words[1] for words in _commands() if words[0] == "make"}
    named |= {span.split()[1] for span in _code_spans() if re.fullmatch(r"make [a-z-]+( .*)?", span)}
    assert {"demo", "test"} <= named
    for target in named:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_every_command_and_its_options_exist() -> None:
    scripts = {words[0] for words in _commands() if words[0].startswith("rs4d-")}
    assert scripts == set(project()["scripts"])
    named = [span.split() for span in _code_spans() if span.startswith("rs4d-") and span.split()[0] in scripts]
    for words in (*_commands(), *named):
        if words[0].startswith("rs4d-"):
            options = {word.split("=")[0] for word in words if word.startswith("--")}
            module = SUBCOMMANDS.get(words[0], {}).get("".join(words[1:2]), _module(words[0]))
            assert options <= _option_names(module), words


def test_every_option_in_the_text_belongs_to_a_command() -> None:
    spans = {span for span in _code_spans() if re.fullmatch(r"--[a-z-]+", span)}
    known = set().union(*map(_option_names, _every_module()))
    assert spans <= known


@pytest.mark.parametrize("module", sorted(_every_module()))
def test_every_command_explains_itself(module: str) -> None:
    result = CliRunner().invoke(importlib.import_module(module).app, ["--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_every_extra_exists() -> None:
    named = set(re.findall(r"(?:\.|rs4d-edge)\[([a-z,-]+)\]", "".join(map(_text, DOCUMENTS))))
    assert named
    assert {each for group in named for each in group.split(",")} <= set(project()["optional-dependencies"])


def test_every_path_in_the_text_exists() -> None:
    looks_like_path = re.compile(r"[\w.]+/[\w./-]*|[\w-]+\.(toml|md)")
    written_by_us = ("shared/", "demo/", "results/", "engines/", "plugin/", "wheels/")
    for span in _code_spans():
        if looks_like_path.fullmatch(span) and not span.startswith(written_by_us):
            assert (ROOT / span).exists(), span


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _text(name)):
        if not target.startswith("https://"):
            assert (ROOT / name).parent.joinpath(target.split("#")[0]).exists(), target


def test_the_python_of_the_readme_uses_what_there_is() -> None:
    blocks = _blocks("README.md", "python")
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names)
    members = {span.removesuffix("()").split("(")[0] for span in _code_spans() if span.endswith(")")}
    for name in ("to_coco", "to_dict", "draw"):
        assert name in members
        assert hasattr(rs4d_edge.Detections, name)


def test_the_targets_of_the_readme_are_those_of_the_export() -> None:
    from rs4d_edge.export.recipes import Target

    rows = re.findall(r"^\| `([a-z]+)` \|.*\| `([a-z-]+)` \|$", _text("README.md"), re.MULTILINE)
    assert {target for target, _ in rows} == {target.value for target in Target}
    assert {extra for _, extra in rows} <= set(project()["optional-dependencies"])


def test_the_shell_scripts_are_sound() -> None:
    scripts = [path for path in (ROOT / ".ci").iterdir() if path.is_file()]
    assert {"run", "check", "make-venv", "build-native"} <= {path.name for path in scripts}
    for path in scripts:
        assert os.access(path, os.X_OK), path
        done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_ci_calls_make_test() -> None:
    assert re.search(r"^exec make .*\btest$", Path(ROOT / ".ci" / "run").read_text(), re.MULTILINE)
