"""Renders expressions.txt and chats/*.jinja with Jinja2 in the environment of Transformers' chat templates.

    python test/golden/jinja/conformance.py

Needs transformers and jinja2; writes conformance.json beside itself: for each template Python's text, or null where
Python raises an error.
"""

import datetime
import json
import pathlib

import jinja2
import transformers
from transformers.utils import chat_template_utils as utils

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2026, 3, 5, 7, 8, 9)


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


utils.datetime = Clock

# As text, so that each reader sees numbers and the order of keys as they are written.
VARIABLES = """{
"d": {"a": 1, "b": 2},
"nums": {"order": 12345678901234567890, "t": 1.0, "big": 1e22, "e5": 1e5, "zero": -0.0, "minus": -0, "small": 1e-7, "m": {"b": 1, "10": 2, "2": 3}, "dup": 1, "x": 0, "dup": 2},
"ints": {"z": 0, "10": "ten", "2": "two", "-1": "minus", "a": {"1": 1.50, "0": 2}},
"nested": {"list": [1, [2, 3.5, null], {}], "dict": {"t": true, "s": "x\\u00e9\\n"}, "empty": []},
"deep": [[[[[["x"]]]]]],
"schema": {"type": "array", "items": {"type": "string"}, "properties": {"keys": {"type": "k"}, "values": {"type": "v"}}, "title": "T"},
"people": [
 {"name": "Bob", "age": 30, "home": {"city": "Oslo"}, "nick": "b"},
 {"name": "alice", "age": 41, "home": {"city": "Rome"}},
 {"name": "Carl", "age": 30, "home": {"city": "oslo"}, "nick": ""},
 {"name": "Dora", "age": 41.0, "home": {"city": "Bonn"}, "nick": "d"}],
"tree": [{"n": "a", "kids": [{"n": "b", "kids": []}, {"n": "c", "kids": [{"n": "d", "kids": []}]}]}, {"n": "e", "kids": []}]
}"""


def render(template, variables):
    try:
        return utils._cached_compile_jinja_template(template).render(**variables)
    except RecursionError:
        raise
    except Exception:  # noqa: BLE001 - any error of the template is an error
        return None


def templates():
    for line in (HERE / "expressions.txt").read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        yield line[1:].encode("latin-1", "backslashreplace").decode("unicode_escape") if line.startswith("!") else line


def chat_templates():
    """Templates in the shapes of popular models, and those of the tokenizers among the fixtures."""
    for path in sorted(HERE.glob("chats/*.jinja")):
        yield path.stem, path.read_bytes().decode("utf-8")
    root = HERE.parents[2]
    for config in [*sorted(root.glob("test/golden/tokenizers/*/tokenizer_config.json")), root / "recipes/base/model/tokenizer_config.json"]:
        source = json.loads(config.read_text("utf-8")).get("chat_template")
        jinja = config.parent / "chat_template.jinja"
        if jinja.exists():
            source = jinja.read_bytes().decode("utf-8")
        if isinstance(source, str):
            yield str(config.parent.relative_to(root)), source


def main():
    variables = json.loads(VARIABLES)
    cases = [[template, render(template, variables)] for template in templates()]
    chats = json.loads((HERE / "chats.json").read_text("utf-8"))
    rendered = {}
    for name, source in chat_templates():
        rendered[name] = [
            render(source, {"tools": None, "documents": None, "bos_token": "<s>", "eos_token": "</s>", **chat})
            for chat in chats
        ]
    result = {
        "jinja2": jinja2.__version__,
        "transformers": transformers.__version__,
        "now": NOW.isoformat(),
        "variables": VARIABLES,
        "cases": cases,
        "chats": rendered,
    }
    (HERE / "conformance.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(len(cases), "templates,", sum(text is None for _, text in cases), "errors;", {k: sum(x is None for x in v) for k, v in rendered.items()})


main()
