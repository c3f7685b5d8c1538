"""The short soak: servers on one memory are killed, and the driver's book is compared with what is stored."""

from __future__ import annotations

import os

import pytest

from benchmarks.soak import soaked


@pytest.mark.skipif(os.name != "posix", reason="kills by SIGKILL")
@pytest.mark.usefixtures("unmeasured")
def test_servers_that_are_killed_in_the_middle_of_anything_lose_and_double_nothing() -> None:
    results, findings = soaked(servers=3, writes=30, kills=4)

    assert {what: found for what, found in findings.items() if found} == {}
    figures = {row["what"]: row["figure"] for row in results["soak"]}
    assert figures["killed"] >= 4
    assert figures["acknowledged writes"] >= 30
