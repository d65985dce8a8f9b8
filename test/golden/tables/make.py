"""Tables for test/data/tables.test.ts, and what pyarrow and Python's csv read in them.

    python test/golden/tables/make.py    (pyarrow 26.0)

rows.json holds the rows of every Parquet file, as lists of [name, value]; csv.json the rows of every CSV file.
"""

import csv
import datetime
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq

folder = os.path.dirname(os.path.abspath(__file__))


def path(name):
    return os.path.join(folder, name)


ROWS = [
    {
        "id": 2**60 + 1,
        "messages": [
            {"role": "user", "content": "What is the weather in Köln? 😀", "tool_calls": None},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": "weather", "arguments": {"town": "Köln", "days": 3, "limit": 1.0}}}],
            },
            {"role": "assistant", "content": "3 degrees", "tool_calls": None},
        ],
        "score": 0.5,
        "created": datetime.datetime(2026, 11, 29, 12, 0),
    },
    {"id": None, "messages": [{"role": "user", "content": "a\nb", "tool_calls": []}], "score": None, "created": None},
    {"id": -5, "messages": [], "score": 1.0, "created": datetime.datetime(1999, 1, 2)},
] + [
    {
        "id": i,
        "messages": [{"role": "user", "content": f"q{i % 3}", "tool_calls": None}, {"role": "assistant", "content": "a" * i, "tool_calls": None}],
        "score": i / 4,
        "created": None,
    }
    for i in range(20)
]

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        (
            "messages",
            pa.list_(
                pa.struct(
                    [
                        ("role", pa.string()),
                        ("content", pa.string()),
                        (
                            "tool_calls",
                            pa.list_(
                                pa.struct(
                                    [
                                        (
                                            "function",
                                            pa.struct(
                                                [
                                                    ("name", pa.string()),
                                                    ("arguments", pa.struct([("town", pa.string()), ("days", pa.int64()), ("limit", pa.float64())])),
                                                ]
                                            ),
                                        )
                                    ]
                                )
                            ),
                        ),
                    ]
                )
            ),
        ),
        ("score", pa.float64()),
        ("created", pa.timestamp("ms")),
    ]
)


def plain(value, top=True):
    """As JSON has it: dates in ISO's form, absent members of structures left out."""
    if isinstance(value, datetime.datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    if isinstance(value, list):
        return [plain(entry, False) for entry in value]
    if isinstance(value, dict):
        return {key: plain(entry, False) for key, entry in value.items() if top or entry is not None}
    return value


table = pa.Table.from_pylist(ROWS, schema=SCHEMA)
for codec in ["none", "snappy", "gzip", "brotli", "zstd", "lz4"]:
    pq.write_table(table, path(f"{codec}.parquet"), compression=codec, row_group_size=10)
pq.write_table(table, path("pages-v2.parquet"), compression="zstd", data_page_version="2.0", data_page_size=64, row_group_size=12)
pq.write_table(table, path("plain.parquet"), compression="none", use_dictionary=False, row_group_size=100)
pq.write_table(pa.table({"text": [c * 2000 for c in "abc"]}), path("long-values.parquet"), use_dictionary=False)
pq.write_table(pa.table({"prompt": ["a", "b"], "picture": [b"\xff\x00", b"\x89PNG"]}), path("bytes.parquet"))
pq.write_table(pa.table({"prompt": pa.array([], pa.string()), "completion": pa.array([], pa.string())}), path("empty.parquet"))

read = pq.read_table(path("zstd.parquet")).to_pylist()
# Lines of JSON as Python writes them: its numbers are compared as text.
with open(path("rows.jsonl"), "w") as file:
    for row in read:
        file.write(json.dumps(plain(row), ensure_ascii=False, separators=(",", ":")) + "\n")

TABLES = {
    "plain.csv": ("prompt,completion,id\r\nq,a,1\r\n", ","),
    "quotes.csv": ('prompt,completion\n"a ""b"" c","x, y"\n"line one\nline two","tail"\n5" disk,round\n"","empty first"\n', ","),
    "semicolon.csv": ("prompt;completion\nfür, wen;ja\n\"a;b\";c\n", ";"),
    "tabs.tsv": ('prompt\tcompletion\n"q, 1"\ta\nq 2\tb, c\n', "\t"),
    "mixed-ends.csv": ('prompt,completion\r\n"a\r\nb",c\nd,e\r\n', ","),
    "bom.csv": ("\ufeffprompt,completion\n\U0001f600,ü\n", ","),
    "no-end.csv": ("prompt,completion\na,b\nc,\"d\ne\"", ","),
    "long.csv": ("prompt,completion\n" + '"' + "x, y\n" * 500 + '",end\n' + "p,q\n", ","),
}
expected = {}
for name, (text, delimiter) in TABLES.items():
    with open(path(name), "w", newline="", encoding="utf-8") as file:
        file.write(text)
    with open(path(name), newline="", encoding="utf-8-sig") as file:
        expected[name] = [row for row in csv.reader(file, delimiter=delimiter) if row]
with open(path("csv.json"), "w") as file:
    json.dump(expected, file, ensure_ascii=False, indent=1)
    file.write("\n")
