"""SenML CBOR packs (RFC 8428 section 6): the same packs as in JSON, with integers for labels.

No text begins like a CBOR array, so the first byte tells. Decisions beside those of `senml`:
- Octets (`vd`) become base64url text without padding, as the same pack has them in JSON.
- Numbers are integers, floats of any width, decimal fractions (tag 4) or small bignums; other tags are no value.
- Numbering has text labels (`boot`, `seq`, `now_ms`, `up_ms`) in the same places as in JSON.
- Labels may be written as text too, arrays, maps and texts may be of indefinite length, and tag 55799 may stand in front.
"""

from __future__ import annotations

import base64

from outrider.contract.limits import MESSAGE_MAX_SAMPLES
from outrider.contract.reasons import Reason, Refused
from outrider_ingest.formats import cbor, senml
from outrider_ingest.formats.decoded import Decoded

LABELS = {
    -6: "bs",
    -5: "bv",
    -4: "bu",
    -3: "bt",
    -2: "bn",
    -1: "bver",
    0: "n",
    1: "u",
    2: "v",
    3: "vs",
    4: "vb",
    5: "s",
    6: "t",
    7: "ut",
    8: "vd",
}
"""RFC 8428 table 4."""
_NAMES = frozenset(LABELS.values())
_ARRAYS = frozenset(bytes([first]) for first in range(0x80, 0xA0))


def decode(body: bytes, document: object) -> Decoded | None:
    """The samples of a CBOR array; None for what does not begin as one.

    Raises Refused for an array that is not well-formed or is no SenML pack: its number cannot be read.
    """
    if document is not None or (body[:1] not in _ARRAYS and not body.startswith(cbor.SELF_DESCRIBED)):
        return None
    pack = cbor.load_array(body, LABELS, MESSAGE_MAX_SAMPLES + 2)
    if not pack or type(pack[0]) is not dict or pack[0].keys().isdisjoint(_NAMES):
        raise Refused(Reason.UNKNOWN_FORMAT, "a CBOR array that is no SenML pack")
    for record in pack:
        if type(record) is dict:
            _name_octets(record)
    decoded = senml.decode_pack(pack)
    if not decoded.samples and not decoded.refused and not _has_null(pack):
        decoded.refuse_all(Reason.UNKNOWN_FORMAT, "a SenML pack without a value")
    return decoded


def _name_octets(record: dict[str, object]) -> None:
    for key, value in record.items():
        if type(value) is bytes:
            record[key] = _base64(value) if key == "vd" else cbor.Other("a byte string")
        elif key == "vd" and type(value) is str:
            record[key] = cbor.Other("a text")


def _base64(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def _has_null(pack: list[object]) -> bool:
    return any(value is None for record in pack if type(record) is dict for value in record.values())
