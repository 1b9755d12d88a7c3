"""Keys and configuration of an sshd on each node, and of the ssh that knows them all."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from support.rooms import COMMAND_TIMEOUT_S

SSHD_CONFIG = """\
HostKey {root}/ssh/host-{host}
AuthorizedKeysFile {root}/ssh/user.pub
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
PidFile none
MaxStartups 200
MaxSessions 200
SetEnv {variables}
Subsystem sftp internal-sftp
"""

SSH_CONFIG = """\
Host {host}
    HostName {address}
    HostKeyAlias {host}
"""
SSH_CONFIG_OF_ALL = """\
Host {hosts}
    User root
    IdentityFile {root}/ssh/user
    IdentitiesOnly yes
    UserKnownHostsFile {root}/ssh/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
    ConnectTimeout 10
"""


def write_ssh(root: Path, addresses: Mapping[str, str], variables: Mapping[str, str]) -> Path:
    """Write what ssh needs into ``root/ssh``, which exists.

    Args:
        addresses: of the nodes, by name.
        variables: what every session gets into its environment.

    Returns:
        The file for ``ssh -F``. The one for the sshd of a node is ``root/ssh/sshd-NODE``.
    """
    ssh = root / "ssh"
    keys = {host: ssh / f"host-{host}" for host in addresses}
    making = [_key_maker(path) for path in (ssh / "user", *keys.values())]
    assert not [process.args for process in making if process.wait(COMMAND_TIMEOUT_S)], "ssh-keygen failed"
    (ssh / "known_hosts").write_text(
        "".join(f"{host},{addresses[host]} {_public(path)}\n" for host, path in keys.items())
    )
    per_host = "".join(SSH_CONFIG.format(host=host, address=address) for host, address in addresses.items())
    both = [*addresses, *addresses.values()]
    (ssh / "config").write_text(per_host + SSH_CONFIG_OF_ALL.format(hosts=" ".join(both), root=root))
    told = " ".join(f"{name}={value}" for name, value in variables.items())
    for host in addresses:
        (ssh / f"sshd-{host}").write_text(SSHD_CONFIG.format(root=root, host=host, variables=told))
    return ssh / "config"


def _key_maker(path: Path) -> subprocess.Popen[bytes]:
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _public(path: Path) -> str:
    kind, key = path.with_suffix(".pub").read_text().split()[:2]
    return f"{kind} {key}"
