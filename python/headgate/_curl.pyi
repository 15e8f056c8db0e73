"""For the other extensions alone; stubtest holds this to the module. Private: not a stable interface."""

from typing import Any

make_transport: Any
