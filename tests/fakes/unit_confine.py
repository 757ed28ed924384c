"""Becomes another program under NoNewPrivileges= and SystemCallFilter= of a unit: `unit_confine.py NAME… -- COMMAND…`.

Started by `units.py`. Any other system call than those named fails with EPERM, as with SystemCallErrorNumber=EPERM.
"""

import ctypes
import os
import sys

SCMP_ACT_ALLOW = 0x7FFF0000
SCMP_ACT_ERRNO_EPERM = 0x00050000 | 1
"""seccomp.h of libseccomp, which systemd itself filters with. Loading a filter sets no_new_privs too."""


def main() -> None:
    """The arguments are in the module's docstring."""
    split = sys.argv.index("--")
    names, command = sys.argv[1:split], sys.argv[split + 1 :]
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(SCMP_ACT_ERRNO_EPERM)))
    for name in names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # of another architecture otherwise
            library.seccomp_rule_add(context, ctypes.c_uint32(SCMP_ACT_ALLOW), number, 0)
    if library.seccomp_load(context) != 0:
        raise SystemExit("unit_confine: the kernel takes no filter of system calls")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
