"""A device's message to the registry, as handlers get it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from outrider.contract.limits import DEVICE_MESSAGE_MAX_BYTES
from outrider.contract.reasons import Reason
from outrider.runtime.errors import Rejected
from outrider.runtime.mqtt import Delivery

P = TypeVar("P", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Message:
    """One message: the topic's placeholders, and the delivery. The same one may come twice, and in any order."""

    values: Mapping[str, str]
    """`tenant` and `device` (or `claim`), `name` …"""
    delivery: Delivery

    @property
    def payload(self) -> bytes:
        """As it came."""
        return self.delivery.payload

    @property
    def received_ms(self) -> int:
        """When, epoch ms."""
        return self.delivery.received_ms

    def read(self, model: type[P]) -> P:
        """The payload as this model. Raises Rejected (too_large, not_json or bad_value), which keeps the message."""
        if len(self.payload) > DEVICE_MESSAGE_MAX_BYTES:
            raise Rejected(Reason.TOO_LARGE, f"{len(self.payload)} bytes")
        try:
            return model.model_validate_json(self.payload)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            if first["type"] == "json_invalid":
                raise Rejected(Reason.NOT_JSON, first["msg"]) from None
            where = ".".join(map(str, first["loc"]))
            raise Rejected(Reason.BAD_VALUE, f"{where}: {first['msg']}") from None
