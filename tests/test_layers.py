"""The packages depend downwards only, and the ClientApp starts light."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fgcif_flwr.config import RunConfig, flatten

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "fgcif_flwr"
LOWER = ("secagg", "privacy", "models", "data", "generative")
UPPER = ("federation", "enterprise", "cli", "reporting", "audit")
HEAVY = ("torch", "sklearn", "duckdb", "pyarrow", "scipy", "pandas", "opacus", "ray", "safetensors")


def modules(part: str) -> list[Path]:
    return sorted((ROOT / PACKAGE / part).rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    """Yield every module that a file imports, wherever in it, by its full name."""
    package = file.relative_to(ROOT).with_suffix("").parts
    for item in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(item, ast.Import):
            yield from (alias.name for alias in item.names)
        elif isinstance(item, ast.ImportFrom):
            base = item.module or ""
            if item.level:
                base = ".".join((*package[: -item.level], *([base] if base else [])))
            yield base
            # `from fgcif_flwr import federation` names a package too.
            yield from (f"{base}.{alias.name}" for alias in item.names)


def under(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def offences(part: str, forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in modules(part)
        for name in imports(file)
        if any(under(name, package) for package in forbidden)
    ]


@pytest.mark.parametrize("part", LOWER)
def test_the_mathematics_knows_neither_flower_nor_what_lies_above_it(part):
    assert modules(part)
    above = (*(f"{PACKAGE}.{name}" for name in UPPER), "server_app", "client_app")
    assert offences(part, ("flwr", "ray", *above)) == []


def test_the_secure_sum_imports_nothing_of_the_project_but_its_errors():
    allowed = (f"{PACKAGE}.secagg", f"{PACKAGE}.errors")
    own = {
        name
        for file in modules("secagg")
        for name in imports(file)
        if under(name, PACKAGE) and not any(under(name, one) for one in allowed)
    }
    assert own == set()


def test_the_two_parties_of_a_secure_sum_import_nothing_of_each_other():
    parties = ("participant", "coordinator")
    assert all(modules(f"secagg/{party}") for party in parties)
    for party, other in (parties, parties[::-1]):
        assert offences(f"secagg/{party}", (f"{PACKAGE}.secagg.{other}",)) == []


def test_what_a_secure_sum_is_built_of_imports_neither_party():
    parties = (f"{PACKAGE}.secagg.participant", f"{PACKAGE}.secagg.coordinator")
    found = [
        one
        for one in offences("secagg", parties)
        if not one.startswith(
            (
                f"{PACKAGE}/secagg/participant/",
                f"{PACKAGE}/secagg/coordinator/",
                f"{PACKAGE}/secagg/__init__.py",
            )
        )
    ]
    assert found == []


def test_the_secure_sum_needs_numpy_cryptography_and_the_standard_library_alone():
    allowed = {*sys.stdlib_module_names, "numpy", "cryptography", PACKAGE}
    used = {name.split(".")[0] for file in modules("secagg") for name in imports(file)}
    assert used <= allowed


def test_the_privacy_layer_imports_of_the_project_only_what_lies_below_it():
    allowed = ("privacy", "secagg", "config", "errors")
    own = {
        name
        for file in modules("privacy")
        for name in imports(file)
        if under(name, PACKAGE) and not any(under(name, f"{PACKAGE}.{one}") for one in allowed)
    }
    assert own == set()


@pytest.mark.parametrize("part", ["data", "models"])
def test_data_and_models_import_neither_the_secure_sum_nor_the_door(part):
    assert offences(part, (f"{PACKAGE}.secagg", f"{PACKAGE}.privacy")) == []


def test_generators_use_of_privacy_the_noise_and_its_cost_alone():
    allowed = ("accounting", "noise", "noisy_sum")
    used = {
        name
        for file in modules("generative")
        for name in imports(file)
        if under(name, f"{PACKAGE}.privacy") and name != f"{PACKAGE}.privacy"
    }
    assert all(any(under(name, f"{PACKAGE}.privacy.{one}") for one in allowed) for name in used), (
        used
    )
    assert offences("generative", (f"{PACKAGE}.secagg",)) == []


def test_data_does_not_import_models_and_only_they_import_torch():
    assert offences("data", (f"{PACKAGE}.models", "torch")) == []
    assert offences("secagg", ("torch", "pyarrow", "sklearn")) == []
    assert offences("privacy", ("torch", "pyarrow", "sklearn")) == []


@pytest.mark.parametrize("module", ["config", "errors"])
def test_configuration_and_errors_import_nothing_above_them(module):
    files = modules(module) or [ROOT / PACKAGE / f"{module}.py"]
    own = {name for file in files for name in imports(file) if under(name, PACKAGE)}
    allowed = (f"{PACKAGE}.errors", f"{PACKAGE}.{module}")
    assert all(any(under(name, one) for one in allowed) for name in own)


def test_flower_is_met_in_federation_and_the_two_apps_only():
    users = {
        str(file.relative_to(ROOT / PACKAGE).parts[0])
        for file in (ROOT / PACKAGE).rglob("*.py")
        if any(under(name, "flwr") for name in imports(file))
    }
    assert users <= {"federation", "cli"}


@pytest.mark.parametrize("part", ["enterprise", "federation"])
def test_federation_and_enterprise_do_not_import_the_commands(part):
    assert offences(part, (f"{PACKAGE}.cli",)) == []


def test_the_audit_knows_nothing_of_what_lies_above_it():
    above = (f"{PACKAGE}.{name}" for name in ("federation", "enterprise", "reporting", "cli"))
    assert modules("audit")
    assert offences("audit", (*above, "flwr", "server_app", "client_app")) == []


def test_an_enterprise_uses_of_the_federation_only_what_has_no_flower():
    allowed = ("answering", "count_words", "generator_releases", "private_plan")
    allowed += ("private_releases", "releases", "requests", "segmentation_releases")
    allowed += (
        "local_work",
        "task_input",
        "terms",
        "agent_body",
        "agent_http",
        "roster",
        "signing",
    )
    used = {
        name.removeprefix(f"{PACKAGE}.federation.").split(".")[0]
        for file in modules("enterprise")
        for name in imports(file)
        if under(name, f"{PACKAGE}.federation") and name != f"{PACKAGE}.federation"
    }
    assert used <= set(allowed)
    for module in ("enterprise", "agent.server", "agent.admin"):
        assert "flwr" not in loaded_by(f"import {PACKAGE}.enterprise.{module}")


def test_an_import_that_breaks_the_layers_would_be_found(tmp_path, monkeypatch):
    broken = tmp_path / PACKAGE / "secagg" / "keys.py"
    broken.parent.mkdir(parents=True)
    broken.write_text(
        "def f():\n"
        "    from ..federation import session\n"
        "    from fgcif_flwr import enterprise\n"
        "    import flwr.app\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    forbidden = ("flwr", f"{PACKAGE}.federation", f"{PACKAGE}.enterprise")
    found = " ".join(offences("secagg", forbidden))
    assert "flwr.app" in found
    assert "fgcif_flwr.federation" in found
    assert "fgcif_flwr.enterprise" in found


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in a fresh interpreter after a statement."""
    script = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_the_clientapp_starts_without_the_heavy_libraries():
    # In a deployment Flower starts a process for every message.
    loaded = loaded_by("import client_app.app")
    assert "flwr" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_secure_sum_starts_without_pydantic_flower_or_torch():
    loaded = loaded_by("import fgcif_flwr.secagg")
    assert "numpy" in loaded
    assert loaded.isdisjoint({"flwr", "pydantic", *HEAVY})


def flower_config() -> dict[str, object]:
    """The [tool.flwr.app.config] of pyproject.toml as dotted keys."""
    tree = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    table = tree["tool"].get("flwr", {}).get("app", {}).get("config")
    if table is None:
        pytest.skip("pyproject.toml has no [tool.flwr.app.config] yet")
    return {
        f"{section}.{key}": value for section, keys in table.items() for key, value in keys.items()
    }


def test_flowers_configuration_is_the_projects_with_its_defaults():
    # Flower knows no key that is not there, and hands the default on where nothing is set.
    assert flower_config() == flatten(RunConfig())


def test_flowers_configuration_has_the_types_of_the_projects():
    flat = flatten(RunConfig())
    assert {key: type(value) for key, value in flower_config().items()} == {
        key: type(value) for key, value in flat.items()
    }
