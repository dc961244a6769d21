"""The types of the fields that records have: what msgspec checks while it decodes.

Integers are bounded by the columns that they end in. A nested value stays raw: it is never parsed into Python objects
here, and an absent one is the empty ``Raw``.
"""

from typing import Annotated

import msgspec

# The last value is kept free: levels are stored 1-based, so one is added later.
Small = Annotated[int, msgspec.Meta(ge=-(2**15), le=2**15 - 2)]
Whole = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
Json = msgspec.Raw
ABSENT = msgspec.Raw()
EMPTY_LIST = msgspec.Raw(b"[]")
EMPTY_OBJECT = msgspec.Raw(b"{}")
