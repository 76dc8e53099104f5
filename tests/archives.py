"""Archives made in memory."""

import io
import tarfile
import zipfile


def zipped(members: dict[str, bytes], mode: int = 0) -> bytes:
    """Make a zip whose members have a file mode."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def tarred(members: dict[str, bytes], kind: str = "gz", member_type: bytes = tarfile.REGTYPE) -> bytes:
    """Make a tar, compressed as `kind` says, whose members have a type; links lead to /etc/passwd."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{kind}") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), member_type, "/etc/passwd"
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()
