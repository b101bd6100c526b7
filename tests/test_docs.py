"""What the documents state of the code is what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen

from fgcif_flwr import errors
from fgcif_flwr.config import RunConfig, flatten, known_keys, read_toml, unflatten
from fgcif_flwr.data.encoding import feature_layout
from fgcif_flwr.data.schema import builtin_names, load_schema, schema_from_toml
from fgcif_flwr.data.transactions import DERIVED_COLUMNS
from fgcif_flwr.secagg import SecureSumParameters, WordFormat

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# README.md and CHANGELOG.md stand at the top, everything else in docs.
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])

_MACHINE = re.compile(
    r"\.\./shared|shared/data|(?<![\w.~-])/(work|tmp|home|root|Users|mnt|opt|var|srv|usr)\b|\b[A-Z]:\\"
)
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")


def table_rows(text: str, header: str) -> list[list[str]]:
    """Return the cells of all tables whose header line is ``header``."""
    rows: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        if line == header:
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    assert rows, f"there is no table with the header {header}"
    return rows


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def settings() -> list[list[str]]:
    return table_rows(page("configuration.md"), "| key | default | bounds | meaning |")


def test_the_configuration_page_lists_exactly_the_known_keys_in_their_order() -> None:
    assert [row[0].strip("`") for row in settings()] == list(known_keys())


def test_the_configuration_page_states_the_defaults() -> None:
    for key, default in flatten(RunConfig()).items():
        stated = next(row[1] for row in settings() if row[0] == f"`{key}`").strip("`")
        if isinstance(default, bool):
            assert stated == str(default).lower(), key
        elif isinstance(default, str):
            assert stated == f'"{default}"', key
        else:
            assert (stated, type(default)) == (str(default), type(default)), key


def test_the_configuration_page_states_the_bounds() -> None:
    stated = {row[0].strip("`"): row[2] for row in settings()}
    for section, part in RunConfig.model_fields.items():
        for name, field in part.annotation.model_fields.items():  # type: ignore[union-attr]
            key = f"{section}.{field.alias or name}"
            assert stated[key] == bounds_in_words(field.annotation, field.metadata), key


def bounds_in_words(kind: Any, metadata: list[Any]) -> str:
    words = {int: "integer", float: "number", str: "text", bool: "`true` or `false`"}
    signs = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}
    if get_origin(kind) is tuple:
        (most,) = (one.max_length for one in metadata if isinstance(one, MaxLen))
        number = get_args(kind)[0]
        if number.__origin__ is str:
            return f"at most {most} names"
        (least,) = (one.min_length for one in metadata if isinstance(one, MinLen))
        each = bounds_in_words(number.__origin__, number.__metadata__[0].metadata)
        return f"{least} to {most} integers, each {each.removeprefix('integer, ')}"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(kind))
    if kind not in words:  # a number, or a word for its absence
        number, absent = get_args(kind)
        limits = getattr(number, "__metadata__", (None,))[0]
        number = getattr(number, "__origin__", number)
        told = bounds_in_words(number, [] if limits is None else limits.metadata)
        return f"{told} or `{get_args(absent)[0]}`"
    limits = [
        f"{signs[type(one)][0]} {getattr(one, signs[type(one)][1]):.12g}"
        for one in metadata
        if type(one) in signs
    ]
    return ", ".join([words[kind], *limits])


def test_the_configuration_example_is_a_configuration(tmp_path: Path) -> None:
    (example,) = fenced(page("configuration.md"), "toml")
    (tmp_path / "run.toml").write_text(example, encoding="utf-8")
    assert unflatten(read_toml(tmp_path / "run.toml")).run.rounds == 50


def test_the_example_of_a_private_run_is_a_configuration() -> None:
    config = unflatten(read_toml(DOCS / "private.toml"))
    assert config.privacy.unit == "customer"


def test_the_schema_examples_are_schemas() -> None:
    whole, transactions = fenced(page("schema.md"), "toml")
    schema = schema_from_toml(whole, "docs/schema.md")
    assert {part.kind for part in (*schema.features, *schema.targets)} == {
        "numeric",
        "categorical",
        "boolean",
        "binary",
    }
    builtin = load_schema("online-retail")
    rest = (
        '[[features]]\nname = "items"\nkind = "numeric"\nlower = 0\nupper = 9\n'
        '[[targets]]\nname = "churn"\nkind = "binary"\npositive = "yes"\n'
    )
    derived = schema_from_toml(f'name = "x"\n{transactions}{rest}', "docs/schema.md")
    assert derived.transactions == builtin.transactions


def test_the_schema_page_lists_the_built_in_schemas_and_the_derived_columns() -> None:
    rows = table_rows(page("schema.md"), "| name | features | targets |")
    assert [row[0].strip("`") for row in rows] == list(builtin_names())
    for name, features, targets in rows:
        schema = load_schema(name.strip("`"))
        assert int(features) == len(schema.features)
        assert re.findall(r"`(\S+)` \((\w+)\)", targets) == [
            (head.name, head.kind) for head in feature_layout(schema).heads
        ]
    derived = [row[0].strip("`") for row in table_rows(page("schema.md"), "| column | meaning |")]
    assert derived == list(DERIVED_COLUMNS)


def test_the_page_on_secure_aggregation_states_the_numbers_of_the_code() -> None:
    rows = table_rows(page("secure-aggregation.md"), "| n | t | d | c | h_min | b |")
    assert [int(row[0]) for row in rows] == [5, 10, 50, 100]
    bits = RunConfig().secagg.value_bits
    for row in rows:
        n = int(row[0])
        chosen = SecureSumParameters.choose(n)
        assert [int(cell) for cell in row[1:]] == [
            chosen.threshold,
            chosen.tolerated_dropouts,
            chosen.tolerated_colluders,
            chosen.honest_in_any_sum,
            WordFormat(bits, n).bits,
        ]


def test_the_tests_that_the_page_on_secure_aggregation_names_are_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", page("secure-aggregation.md")))
    files = (ROOT / "tests").glob("test_*.py")
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    assert named
    assert named <= set(re.findall(r"^def (test_\w+)", source, re.MULTILINE))


def test_the_page_on_commands_lists_every_exit_code() -> None:
    rows = table_rows(page("cli.md"), "| code | error | meaning |")
    stated = {row[1].strip("`"): int(row[0]) for row in rows if row[1]}
    assert stated == {
        kind.__name__: kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.FgcifError)
        and kind is not errors.FgcifError
    }


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_names_no_path_of_a_machine(path: Path) -> None:
    found = _MACHINE.search(path.read_text(encoding="utf-8"))
    assert found is None, f"{path.name}: {found.group() if found else ''}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(path: Path) -> None:
    for file, anchor in _LINK.findall(path.read_text(encoding="utf-8")):
        target = path.parent / file if file else path
        assert target.exists(), f"{path.name} links to {file}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {
                re.sub(r"[^\w\- ]", "", one).strip().lower().replace(" ", "-") for one in headings
            }
            assert anchor[1:] in slugs, f"{path.name} links to {file}{anchor}"
