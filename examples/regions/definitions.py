"""What BACKBEAT_DEFINITIONS names: three writes to a region's warehouse, and the orchestration."""

from backbeat import effect, orchestration
from examples.regions.models import Shipment
from examples.regions.warehouse import looks, writes

set_aside = effect("set_aside", perform=writes("reserve"), read_back=looks("reserve"), timeout=2.0, settle=1.0)
confirm = effect("confirm", perform=writes("confirm"), read_back=looks("confirm"), timeout=2.0, settle=1.0)
cancel = effect("cancel", perform=writes("cancel"), read_back=looks("cancel"), timeout=2.0, settle=1.0)

ship_from_regions = orchestration(
    "ship_from_regions", version=1, input=Shipment, workflow="examples.regions.workflow:ShipFromRegions"
)
