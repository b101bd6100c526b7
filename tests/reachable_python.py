"""A Python that other users of the machine can start, whoever owns this one."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import sysconfig
import tempfile
from functools import lru_cache
from pathlib import Path

_NOT_COPIED = (
    "site-packages",
    "test",
    "idlelib",
    "__pycache__",
    "config-*",
    "ensurepip",
    "lib2to3",
)


def reachable(path: Path) -> bool:
    """Whether everybody may reach and read a path."""
    whole = path.resolve()
    return all(one.stat().st_mode & 0o001 for one in whole.parents) and bool(
        whole.stat().st_mode & 0o004
    )


@lru_cache(maxsize=1)
def command() -> tuple[str, dict[str, str]]:
    """Return an executable and the environment that it wants; a copy of this one, if need be."""
    if reachable(Path(sys.executable)) and reachable(Path(os.__file__)):
        return sys.executable, {}
    home = Path(tempfile.mkdtemp(prefix="fgcif-python-"))
    atexit.register(shutil.rmtree, home)
    home.chmod(0o755)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = Path(os.__file__).parent
    shutil.copytree(
        library, home / "lib" / version, ignore=shutil.ignore_patterns(*_NOT_COPIED), symlinks=True
    )
    (home / "bin").mkdir()
    executable = home / "bin" / version
    shutil.copy(Path(sys.executable).resolve(), executable)
    for shared in Path(sysconfig.get_config_var("LIBDIR") or library).glob("libpython*.so*"):
        shutil.copy(shared, home / "lib" / shared.name)
    packages = [path for path in sys.path if path.endswith("-packages")]
    return str(executable), {
        "PYTHONHOME": str(home),
        "PYTHONPATH": os.pathsep.join(packages),
        "LD_LIBRARY_PATH": str(home / "lib"),
    }
