"""The kernel settings of connection tracking (P-06), below a folder that stands for the root."""

from __future__ import annotations

import errno
import logging
from contextlib import nullcontext
from pathlib import Path

import pytest

from spliceway.errors import SettingsError, SourceError
from spliceway.node import agent
from spliceway.node.sysctls import apply_sysctls, wishes
from spliceway.settings import CaptureMode, CaptureSettings, NodeSettings, Settings, SourceSettings

SETTINGS = NodeSettings()
MAX = "proc/sys/net/netfilter/nf_conntrack_max"
BUCKETS = "sys/module/nf_conntrack/parameters/hashsize"
ESTABLISHED = "proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established"
CLOSE_WAIT = "proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait"


@pytest.fixture(autouse=True)
def _two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, value in ((MAX, 65536), (BUCKETS, 16384), (ESTABLISHED, 432000), (CLOSE_WAIT, 60)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{value}\n")
    return tmp_path


def values(root: Path) -> tuple[int, ...]:
    return tuple(int((root / path).read_text()) for path in (MAX, BUCKETS, ESTABLISHED, CLOSE_WAIT))


def test_defaults_are_kube_proxys(root: Path) -> None:
    """Busy nodes would lose connections at the kernel's small default, and a test of Kubernetes reads 3600 back."""
    apply_sysctls(SETTINGS, root)
    assert values(root) == (131072, 32768, 86400, 3600)


@pytest.mark.parametrize(("cpus", "limit"), [(1, 131072), (4, 131072), (5, 163840), (32, 1_048_576), (256, 1_048_576)])
def test_the_limit_grows_with_the_cpus_within_bounds(cpus: int, limit: int) -> None:
    """A big machine would have a small table, or a huge one without end."""
    assert wishes(SETTINGS, cpus)[0].value == limit


def test_limits_are_only_ever_raised(root: Path) -> None:
    """An administrator's greater table would be cut down."""
    (root / MAX).write_text("2000000")
    (root / BUCKETS).write_text("500000")
    apply_sysctls(SETTINGS, root)
    assert values(root)[:2] == (2000000, 500000)


def test_zeros_leave_the_kernel_alone(root: Path) -> None:
    """Whoever wants to keep own settings could not."""
    before = values(root)
    nothing = NodeSettings(conntrack_max_per_core=0, conntrack_tcp_established=0, conntrack_tcp_close_wait=0)
    apply_sysctls(nothing, root)
    assert values(root) == before


def refuse_writes(monkeypatch: pytest.MonkeyPatch, *paths: str) -> None:
    """/proc/sys as a container without privileges has it."""
    write_text = Path.write_text

    def refuse(path: Path, text: str) -> int:
        if not paths or any(str(path).endswith(each) for each in paths):
            raise OSError(errno.EROFS, "Read-only file system")
        return write_text(path, text)

    monkeypatch.setattr(Path, "write_text", refuse)


def test_a_missing_right_is_said_with_what_to_do(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator of an unprivileged agent would get an errno."""
    refuse_writes(monkeypatch)
    with pytest.raises(SettingsError, match=r"nf_conntrack_max is 65536, must be 131072 .*read-only.*--init-only"):
        apply_sysctls(SETTINGS, root)


def test_settings_that_an_init_container_made_need_no_right(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent would need a privileged container for its whole life (P-05)."""
    apply_sysctls(SETTINGS, root)
    refuse_writes(monkeypatch)
    apply_sysctls(SETTINGS, root)


def test_a_hash_table_that_cannot_grow_is_only_a_warning(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A node whose /sys is read-only could not run the agent, as it could kube-proxy."""
    refuse_writes(monkeypatch, "hashsize")
    apply_sysctls(SETTINGS, root)
    assert values(root) == (131072, 16384, 86400, 3600)
    assert "hashsize stays 16384, 32768 cannot be written: read-only file system" in caplog.text


def test_without_connection_tracking_there_is_nothing_to_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A kernel without the module would keep the agent from starting."""
    caplog.set_level(logging.WARNING)
    apply_sysctls(SETTINGS, tmp_path)
    assert caplog.text.count("does not exist (connection tracking is not loaded)") == 4


def test_nonsense_in_the_kernels_file_is_one_sentence(root: Path) -> None:
    """A traceback would greet the operator of an odd kernel."""
    (root / MAX).write_text("many")
    with pytest.raises(SettingsError, match="cannot be read"):
        apply_sysctls(SETTINGS, root)


async def test_an_agent_that_cannot_start_leaves_the_kernel_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A mistyped kubeconfig would leave a node with other limits than it had."""
    made: list[NodeSettings] = []
    monkeypatch.setattr(agent, "_capturing_alone", lambda _: nullcontext())
    monkeypatch.setattr(agent, "apply_sysctls", made.append)
    source = SourceSettings(kubeconfig=tmp_path / "none")
    with pytest.raises(SourceError):
        await agent.run_agent(Settings(source=source, capture=CaptureSettings(mode=CaptureMode.TPROXY)))
    assert not made
