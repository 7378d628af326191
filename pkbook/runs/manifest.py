"""The manifest of a folder: what is kept there, with the checksum of its own bytes."""

import json
import zlib
from pathlib import Path

FORMAT = 2


def dump_manifest(manifest: dict) -> bytes:
    content = {"format": FORMAT, **manifest}
    check = f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"
    return (json.dumps({"checksum": check, **content}, indent=1) + "\n").encode()


def load_manifest(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"folder {str(path.parent)!r} holds no trajectory (no manifest.json)")
    raw = path.read_bytes()
    try:
        manifest = json.loads(raw)
        checked = "checksum" in manifest  # format 1 had none
        content = {key: value for key, value in manifest.items() if key != "checksum"}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    whole = dump_manifest(content) == raw  # byte for byte, so that no damage passes as white space
    found = content.pop("format", None)
    if found != FORMAT and (whole or not checked):
        raise ValueError(
            f"{path} has format {found!r} (written by pkbook {content.get('pkbook')!r}), this "
            f"pkbook reads {FORMAT}; use that version, or record the run again"
        )
    if not whole:
        raise ValueError(f"{path} is damaged (checksum differs)")
    return content
