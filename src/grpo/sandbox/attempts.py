"""Programs that attempt, without harm, each action that a sandbox forbids."""

from __future__ import annotations

__all__ = ["ENDLESS", "FILES", "LEAVING", "MEMORY", "MEMORY_TOGETHER", "PRINTING", "PROCESSES", "THREADS"]

LEAVING = """
import ctypes, json, os, socket, struct, sys, time
bait = json.load(sys.stdin)
file, caller, linux = bait["file"], bait["caller"], sys.platform == "linux"
libc = ctypes.CDLL(None, use_errno=True)
def stopped(*attempts):
    # Return whether all of these fail.
    for attempt in attempts:
        try:
            attempt()
        except (OSError, AttributeError):
            continue
        return False
    return True
def connect(family, kind, address):
    with socket.socket(family, kind) as one:
        one.settimeout(1)
        one.connect(address)
        one.send(b"x")
def write_memory():
    with open(f"/proc/{caller}/mem", "r+b"):
        pass
def attach():
    libc.shmat.restype = ctypes.c_void_p
    if libc.shmat(bait["segment"], None, 0) == ctypes.c_void_p(-1).value:
        raise OSError
def privileges():
    header = struct.pack("Ii", 0x20080522, 0)
    held = ctypes.create_string_buffer(24)
    if libc.prctl(39, *[ctypes.c_ulong(0)] * 4) != 1 or libc.capget(header, held) != 0:
        return False
    return not any(held.raw)
def stay():
    if os.fork() == 0:
        try:
            os.setsid()
        except OSError:
            pass
        if os.fork() == 0:
            for number in range(3):
                os.close(number)
            os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(3)", bait["token"]])
        os._exit(0)
stopped(lambda: open(bait["new"], "w"))  # the caller checks for this file
results = {
    "reading": stopped(lambda: open(file).read(), lambda: open("/etc/passwd").read()),
    "writing": stopped(lambda: open(file, "a")),
    "changing": stopped(
        lambda: os.chmod(file, 0o600),
        lambda: os.utime(file),
        lambda: os.truncate(file, 0),
        lambda: os.setxattr(file, "user.grpo", b"x"),
        lambda: os.chown(file, os.getuid(), os.getgid()),
    ),
    "network": stopped(
        lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", bait["tcp"])),
        lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", bait["udp"])),
        lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, bait["local"]),
    ),
    "signals": stopped(lambda: os.kill(caller, 0), write_memory),
    "shared memory": stopped(attach),
    "environment": linux and stopped(lambda: open(f"/proc/{caller}/environ", "rb").read()),
    "file size": stopped(lambda: open("file", "wb").write(bytes(1 << 20))),
    "user": os.getuid(),
    "privileges": linux and privileges(),
    "calls": linux and libc.personality(ctypes.c_ulong(0xFFFFFFFF)) == -1,
}
try:
    os.unlink("file")
except OSError:
    pass
stay()
time.sleep(0.1)
print(json.dumps(results))
"""
ENDLESS = "while True: pass"
PRINTING = "print('x' * (1 << 20))"
MEMORY = """
try:
    bytearray(1 << 28)
except MemoryError:
    print("stopped")
"""
MEMORY_TOGETHER = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        held = b"x" * (60 << 20)
        time.sleep(2)
        os._exit(0)
time.sleep(2)
"""
PROCESSES = """
import os, time
for _ in range(40):
    try:
        if os.fork() == 0:
            time.sleep(2)
            os._exit(0)
    except OSError:
        print("stopped", flush=True)
        break
    time.sleep(0.01)
"""
THREADS = """
import threading, time
for _ in range(40):
    try:
        threading.Thread(target=time.sleep, args=(2,), daemon=True).start()
    except RuntimeError:
        print("stopped", flush=True)
        break
    time.sleep(0.01)
"""
FILES = """
import os, time
for number in range(10):
    try:
        file = open(f"file{number}", "wb")
        file.write(bytes(100_000))
        file.flush()
        os.unlink(file.name)
        globals()[file.name] = file
    except OSError:
        print("stopped", flush=True)
        break
    time.sleep(0.03)
"""
