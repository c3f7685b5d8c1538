"""What is left out until it is asked for is there when it is."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from memp_mcp import lean

lean.on_demand("http")
lean.on_demand("no_such_package")
import http.cookies

package = sys.modules["http"]
print("cookies" in vars(package), "HTTPStatus" in vars(package))
print(package.HTTPStatus.OK.phrase, hasattr(package, "no_such_name"), hasattr(package, "__no_such_name__"))
"""


def test_a_package_runs_its_own_code_when_a_name_of_it_is_asked_for() -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    before, after = ended.stdout.splitlines()
    assert before == "True False"
    assert after == "OK False False"


def test_what_is_loaded_is_kept_from_the_garbage_collector_once() -> None:
    script = "import gc; from memp_mcp import lean; lean.keep_what_is_loaded(); n = gc.get_freeze_count()"
    script += "; more = [[] for _ in range(99)]; lean.keep_what_is_loaded(); print(n > 99, gc.get_freeze_count() - n)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["True", "0"]
