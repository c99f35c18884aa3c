"""Where a tool may connect to: public addresses only, judged as the bytes that will be connected to."""

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Public by the registries, and yet no public service: a cloud's own, and IPv6 that stands for an IPv4 address.
_CLOSED: tuple[Network, ...] = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # a cloud's metadata and agents
            "192.0.0.0/24",
            "192.88.99.0/24",  # 6to4 relays
            "64:ff9b::/96",  # NAT64
            "64:ff9b:1::/48",
            "2001::/32",  # Teredo
            "2002::/16",  # 6to4
            "::/96",  # IPv4-compatible
            "5f00::/16",
            "fec0::/10",  # site-local
        ),
    )
)


def objection(text: str, allowed: Sequence[Network] = ()) -> str | None:
    """Why nobody may connect to this address, as a resolver names it; None when it is public, or `allowed`."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "is no address"
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return "belongs to one link"
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
    if any(address in network for network in allowed if network.version == address.version):
        return None
    if any(address in network for network in _CLOSED if network.version == address.version):
        return "stands for another address, or is a cloud's own"
    if address.is_multicast or not address.is_global or address.is_reserved:
        return "is private, local or reserved"
    return None
