#!/usr/bin/env python3
"""Judges the promises of docs/reliability.md, row by row.

    torture.py                     every row in its whole size, and a report
    torture.py 1 4 20              these rows
    torture.py --judge LOG         what `cargo test -- --show-output` has printed, in the short size

A row is a goal of `rows.toml` with the tests that show it. Each test prints lines of the form
`row=ID faults_fired=F ops_ok=O value=V`, V being the violations that it found; its control, in which the
protection is switched off, prints `row=ID control=true value=V` with what it found there. A row is held
where each of its tests passed, hit and did as much as its floors say, found nothing, and where its control
found something. Where what is counted is what came too late (`is_timed`), only the whole size is judged by
it; and so with figures that have a bound (`at_most`). A test that can't inject its fault prints `row=ID not_possible=WHY`: such a row is reported as
that, and never as held.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "target" / "torture"

# A test in its whole size that has not ended by then hangs.
TEST_SECONDS_MAX = 1800

# What each line counts.
COUNTS = ("faults_fired", "ops_ok", "value")

# The two floors of a test, in this order.
SHORT, WHOLE = 0, 1


def read_rows(path):
    with open(path, "rb") as file:
        rows = tomllib.load(file)["row"]
    for row in rows:
        for test in row["tests"] + row.get("controls", []):
            binary, _, name = test["test"].partition(" ")
            test["binary"], test["name"] = binary, name
    return rows


def lines_of(output):
    """The lines that begin with `row=`, each as its ids and its fields."""
    for line in output.splitlines():
        # A line may stand behind the name of its test, which cargo doesn't end.
        match = re.search(r"(?:^| )row=(\S+)(.*)$", line)
        if match:
            fields = dict(re.findall(r"(\w+)=(\S+)", match[2]))
            yield match[1].split(","), fields


def number(text):
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?", text or "") else None


class Outcome:
    """What became of one test: whether it passed, and the lines that it printed."""

    def __init__(self, is_passed, output, seconds=None):
        self.is_passed, self.seconds = is_passed, seconds
        self.lines = list(lines_of(output))

    def of(self, row, is_control):
        found = [fields for ids, fields in self.lines if row in ids]
        return [one for one in found if ("control" in one) == is_control]


def judge(row, outcomes, size):
    """One row's verdict, and what the report says of it."""
    told = {"row": row["row"], "what": row["what"], "goal": row["goal"], "wrong": [], "figures": []}
    faults = ops = value = 0
    impossible, seconds = [], 0
    for test in row["tests"]:
        outcome = outcomes.get((test["binary"], test["name"]))
        if outcome is None:
            told["wrong"].append(f"{test['test']} did not run")
            continue
        seconds += outcome.seconds or 0
        if not outcome.is_passed:
            told["wrong"].append(f"{test['test']} failed")
        lines = outcome.of(test.get("row", row["row"]), is_control=False)
        impossible += [line["not_possible"] for line in lines if "not_possible" in line]
        # A line without any count only names its seed.
        lines = [line for line in lines if "not_possible" not in line and
                 any(field in line for field in COUNTS)]
        sums = {}
        for field in COUNTS:
            numbers = [number(line.get(field)) for line in lines]
            if None in numbers:
                told["wrong"].append(f"{test['test']} printed a line without the number {field}")
            sums[field] = sum(one or 0 for one in numbers)
        faults, ops = faults + sums["faults_fired"], ops + sums["ops_ok"]
        if size == WHOLE or not test.get("is_timed"):
            value += sums["value"]
        if lines or not impossible:
            for field, floors in (("faults_fired", "faults"), ("ops_ok", "ops")):
                floor = test[floors][size]
                if sums[field] < floor:
                    told["wrong"].append(
                        f"{test['test']}: {field} {sums[field]:g} is below the floor of {floor}")
        for figure, most in test.get("at_most", {}).items() if size == WHOLE else ():
            shown = [number(line[figure]) for line in lines if figure in line]
            if not shown or max(shown) > most:
                told["wrong"].append(f"{figure} is {max(shown, default=None)}, at most {most} is wanted")
        for line in lines:
            told["figures"] += [f"{key}={shown}" for key, shown in line.items()
                                if key not in ("faults_fired", "ops_ok", "value", "seed")]
    control = None
    for test in row.get("controls", []):
        outcome = outcomes.get((test["binary"], test["name"]))
        lines = outcome.of(test.get("row", row["row"]), is_control=True) if outcome else []
        found = sum(number(line.get("value")) or 0 for line in lines)
        control = (control or 0) + found
        if outcome is None:
            told["wrong"].append(f"the control {test['test']} did not run")
        elif not outcome.is_passed or found < 1:
            told["wrong"].append(f"the control {test['test']} found nothing")
        elif outcome.seconds and test["name"] not in [one["name"] for one in row["tests"]]:
            seconds += outcome.seconds
    if value > 0:
        told["wrong"].append(f"{value:g} violations")
    told.update(faults_fired=int(faults), ops_ok=int(ops), value=int(value), seconds=round(seconds),
                control="none: " + row["no_control"] if control is None else int(control),
                not_possible=impossible)
    told["verdict"] = ("NOT HELD" if told["wrong"] else
                       "not possible here" if impossible and not faults else
                       "held in part" if impossible else "held")
    return told


def judged_log(path):
    """The outcomes in the output of `cargo test -- --show-output`."""
    outcomes, binary, name, passed, output = {}, None, None, {}, []

    def finish():
        if name is not None:
            outcomes[(binary, name)] = Outcome(passed.get(name, False), "\n".join(output))

    for line in Path(path).read_text(errors="replace").splitlines():
        running = re.match(r"\s+Running (?:unittests )?(\S+)", line)
        ended = re.match(r"test (\S+) \.\.\. (ok|FAILED)", line)
        section = re.match(r"---- (\S+) stdout ----", line)
        if running:
            finish()
            parts = Path(running[1]).parts
            binary = {"src": "lib"}.get(parts[0], Path(parts[1] if len(parts) > 1 else "").stem)
            binary = "bin" if parts[-1] == "main.rs" and parts[0] == "src" else binary
            name, passed = None, {}
        elif section:
            finish()
            name, output = section[1], []
        elif line in ("successes:", "failures:") or line.startswith("test result:"):
            finish()
            name = None
        elif ended:
            passed[ended[1]] = ended[2] == "ok"
            outcomes[(binary, ended[1])] = Outcome(passed[ended[1]], "")
        elif name is not None:
            output.append(line)
    finish()
    return outcomes


def build():
    """The test programs by their names."""
    built = subprocess.run(
        ["cargo", "test", "--locked", "--no-run", "--message-format=json"],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    programs = {}
    for message in map(json.loads, built.splitlines()):
        if message.get("reason") == "compiler-artifact" and message.get("executable"):
            kind = message["target"]["kind"][0]
            name = {"lib": "lib", "bin": "bin"}.get(kind, message["target"]["name"])
            if message["profile"]["test"]:
                programs[name] = message["executable"]
    return programs


def run(program, test, environment):
    """Runs one test alone, in its whole size; its output goes to a file as well."""
    began = time.monotonic()
    command = [program, test["name"], "--exact", "--nocapture"]
    log = OUT / (re.sub(r"\W+", "-", test["test"]) + ".log")
    with log.open("w") as file:
        try:
            status = subprocess.run(command, cwd=ROOT, env=environment, stdout=file,
                                    stderr=subprocess.STDOUT, timeout=TEST_SECONDS_MAX).returncode
        except subprocess.TimeoutExpired:
            status = None
    output = log.read_text(errors="replace")
    is_passed = status == 0 and re.search(r"test result: ok\. 1 passed", output) is not None
    return Outcome(is_passed, output, time.monotonic() - began)


def commit():
    """What was built, as far as it was committed."""
    described = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=10"], cwd=ROOT,
                               capture_output=True, text=True)
    return described.stdout.strip()


def tortured(rows):
    """Runs the rows in their whole size, one after the other; each one's verdict."""
    OUT.mkdir(parents=True, exist_ok=True)
    programs = build()
    environment = os.environ | {"RUNLEDGER_TORTURE": "whole"}
    released = environment
    tests = [test for row in rows for test in row["tests"] + row.get("controls", [])]
    if any(test.get("is_release") for test in tests):
        # Where the goal has a figure: the service as it is shipped.
        subprocess.run(["cargo", "build", "--release", "--locked"], cwd=ROOT, check=True)
        target = Path(programs["service"]).parents[2]
        released = environment | {"RUNLEDGER_TEST_BINARY": str(target / "release" / "runledger")}
    outcomes = {}
    for row in rows:
        for test in row["tests"] + row.get("controls", []):
            key = (test["binary"], test["name"])
            if key not in outcomes:
                print(f"row {row['row']}: {test['test']}", file=sys.stderr, flush=True)
                with_what = released if test.get("is_release") else environment
                outcomes[key] = run(programs[test["binary"]], test, with_what)
        told = judge(row, outcomes, WHOLE)
        told["is_release"] = any(test.get("is_release") for test in row["tests"])
        told.update(date=time.strftime("%Y-%m-%d"), commit=commit())
        # Kept by row, so that a report has the last of each.
        (OUT / f"row-{row['row']}.json").write_text(json.dumps(told, indent=1))
        show(told)
        yield told


def show(told):
    control = told["control"] if isinstance(told["control"], int) else "none"
    print(f"row {told['row']:>3}  {told['verdict']:<17} faults_fired={told['faults_fired']} "
          f"ops_ok={told['ops_ok']} value={told['value']} control={control}", flush=True)
    for wrong in told["wrong"]:
        print(f"         {wrong}", flush=True)


def machine():
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", text)
    kib = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[1])
    postgres = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    version = subprocess.run([postgres[-1], "--version"], capture_output=True,
                             text=True).stdout.strip() if postgres else "no PostgreSQL"
    return (f"{os.cpu_count()} cores ({model[1] if model else platform.machine()}), "
            f"{kib // 1024 // 1024} GiB, Linux {platform.release().split('-')[0]}, {version}")


def report(rows, path):
    """Writes the last whole trial of each row."""
    told, missing = [], []
    for row in rows:
        kept = OUT / f"row-{row['row']}.json"
        if kept.exists():
            told.append(json.loads(kept.read_text()))
        else:
            missing.append(row["row"])
    held = sum(one["verdict"] == "held" for one in told)
    text = ["# The last torture", "",
            f"`make torture`, the last trial of each row: {held} of {len(rows)} held"
            + (f"; not tried in the whole size: {', '.join(missing)}" if missing else "") + ".", "",
            f"{machine()}. Test builds; rows marked with * ran the service as it is shipped.", "",
            "What is promised stands in [reliability.md](reliability.md). `value` counts violations, `control` "
            "those that were found with the protection switched off.", "",
            "| row | tried | faults_fired | ops_ok | value | control | verdict | figures | s | commit |",
            "|---|---|---|---|---|---|---|---|---|---|"]
    for one in told:
        notes = one["wrong"] + [f"not possible here: {why}" for why in one["not_possible"]]
        star = "*" if one["is_release"] else ""
        text.append(
            f"| {one['row']}{star} | {one['what']} | {one['faults_fired']} | {one['ops_ok']} | "
            f"{one['value']} | {one['control']} | {one['verdict']} | {'; '.join(one['figures'] + notes)} | "
            f"{one['seconds']} | {one['date']} {one['commit']} |")
    Path(path).write_text("\n".join(text) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", help="rows to run; else all")
    parser.add_argument("--judge", metavar="LOG", help="judge the output of cargo test instead")
    parser.add_argument("--report", metavar="FILE", help="write the report there as well")
    parser.add_argument("--table", metavar="FILE", default=Path(__file__).with_name("rows.toml"),
                        help="the rows; else those beside this program")
    given = parser.parse_args()
    rows = read_rows(given.table)
    known = [row["row"] for row in rows]
    for row in given.rows:
        if row not in known:
            parser.error(f"there is no row {row}: there are {' '.join(known)}")
    if given.rows:
        rows = [row for row in rows if row["row"] in given.rows]
    if given.judge:
        told = [judge(row, judged_log(given.judge), SHORT) for row in rows]
        for one in told:
            show(one)
    else:
        told = list(tortured(rows))
        for path in [OUT / "report.md"] + ([given.report] if given.report else []):
            report(read_rows(given.table), path)
    wrong = [one["row"] for one in told if one["wrong"]]
    held = sum(one["verdict"] == "held" for one in told)
    print(f"{held} of {len(told)} rows held" + (f"; NOT HELD: {', '.join(wrong)}" if wrong else ""))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
