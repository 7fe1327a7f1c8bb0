"""Freed memory stays with the process; glibc's own count of mapped bytes is the oracle."""

import os
import platform
import subprocess
import sys

import pytest

FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
PROGRAM = f"""
import ctypes
from train.memory import keep_freed_memory
class Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "{FIELDS}".split()]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Counts
libc.malloc.restype = ctypes.c_void_p
keep_freed_memory()
before = libc.mallinfo2()
pointer = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(2**26)))
mapped = libc.mallinfo2().hblkhd - before.hblkhd
libc.free(pointer)
print(mapped >= 2**26, libc.mallinfo2().arena - before.arena >= 2**26)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
@pytest.mark.parametrize(("environment", "printed"), [({}, "False True"), ({"MALLOC_PERTURB_": "0"}, "True False")])
def test_freed_memory_stays_unless_the_environment_settles_it(environment: dict[str, str], printed: str) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    output = subprocess.check_output([sys.executable, "-c", PROGRAM], env=clean | environment, text=True)
    assert output.strip() == printed
