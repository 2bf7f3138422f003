"""The artefact: one static executable that needs nothing of the system it is copied to."""

import os
import struct
import subprocess

PT_INTERP, ET_DYN, SHT_SYMTAB = 3, 3, 2


def test_it_is_a_static_position_independent_executable(build):
    image = build.read_bytes()
    assert image[:5] == b"\x7fELF\x02", "a 64-bit ELF file"
    kind = struct.unpack_from("<H", image, 16)[0]
    offset = struct.unpack_from("<Q", image, 32)[0]
    size, count = struct.unpack_from("<HH", image, 54)
    segments = [struct.unpack_from("<I", image, offset + i * size)[0] for i in range(count)]
    assert kind == ET_DYN, "position independent"
    assert PT_INTERP not in segments, "asks for a dynamic linker: is RUSTFLAGS set in the environment?"


def test_ldd_says_so(build):
    said = subprocess.run(["ldd", build], capture_output=True, text=True)
    assert "statically linked" in said.stdout + said.stderr or "not a dynamic" in said.stdout + said.stderr


def test_it_is_stripped_and_small(build):
    assert os.path.getsize(build) < 4 << 20
    image = build.read_bytes()
    offset = struct.unpack_from("<Q", image, 40)[0]
    size, count = struct.unpack_from("<HH", image, 58)
    kinds = [struct.unpack_from("<I", image, offset + i * size + 4)[0] for i in range(count)]
    assert SHT_SYMTAB not in kinds, "has a symbol table"
