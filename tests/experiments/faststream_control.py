"""Can FastStream attend the registry's slot? Runs the consumers' suite with both and counts messages a second (ADR 0008).

    python -m tests.experiments.faststream_control

Installs `faststream[mqtt]` into a throwaway environment beside the project's packages.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

CASE = re.compile(r"::(Test\w+)::(test_\w+) (PASSED|FAILED|ERROR|SKIPPED)")
OPTIONS = ("-v", "-n", "0", "-p", "no:cacheprovider", "-W", "default")
ROOT = Path(__file__).parents[2]


def main() -> None:
    """Install, run, print a table."""
    with tempfile.TemporaryDirectory(prefix="outrider-faststream-") as folder:
        python = Path(folder) / "venv" / "bin" / "python"
        venv.create(python.parents[1], with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "faststream[mqtt]"], check=True)
        shown = subprocess.run([python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True)
        versions = {one["name"]: one["version"] for one in json.loads(shown.stdout)}
        site = next((python.parents[1] / "lib").glob("python*/site-packages"))
        (site / "project.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n{_editable()}")
        figures = Path(folder) / "figures"
        figures.touch()
        run = subprocess.run(
            [python, "-m", "pytest", *OPTIONS, *sys.argv[1:], str(ROOT / "tests/experiments/faststream_consumer.py")],
            check=False,
            cwd=ROOT,
            env=os.environ | {"OUTRIDER_EXPERIMENT_FILE": str(figures)},
            capture_output=True,
            text=True,
        )
        rates = {one["way"]: one["messages_per_s"] for one in map(json.loads, figures.read_text().splitlines())}
    print(f"faststream {versions.get('faststream')}, zmqtt {versions.get('zmqtt')}\n")
    results: dict[str, dict[str, str]] = {}
    for way, test, result in CASE.findall(run.stdout):
        results.setdefault(test, {})[way] = result.lower()
    if not results:
        sys.exit(run.stdout + run.stderr)
    print("| test | FastStream | the runtime's consumer |\n|---|---|---|")
    for test, ways in results.items():
        print(f"| {test} | {ways.get('TestFastStream', '')} | {ways.get('TestRuntime', '')} |")
    print(f"| messages/s | {rates.get('TestFastStream', '')} | {rates.get('TestRuntime', '')} |")


def _editable() -> str:
    """The project's own packages, wherever they are imported from."""
    return "\n".join(path for path in sys.path if path.endswith("/src"))


if __name__ == "__main__":
    main()
