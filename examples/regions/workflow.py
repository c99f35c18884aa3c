"""Reserve, confirm, cancel: each step runs on a worker of its region, one region after the other."""

from temporalio import workflow

from backbeat import orchestrate as bb

with workflow.unsafe.imports_passed_through():
    from examples.regions.models import Shipment


@workflow.defn(name="ship_from_regions")
class ShipFromRegions:
    """Nothing is confirmed anywhere before everything is reserved; what cannot be is given back everywhere."""

    @workflow.run
    async def run(self, shipment: Shipment) -> str:
        async with bb.saga() as reservations:
            for region in shipment.regions:
                with bb.in_region(region):
                    what = {"region": region, "order": shipment.order, "units": shipment.units}
                    await reservations.step(f"reserve:{region}", "set_aside", what, undo=("cancel", what))
        # From here on there is no way back: a confirmation is tried until it is done.
        for region in shipment.regions:
            with bb.in_region(region):
                what = {"region": region, "order": shipment.order, "units": shipment.units}
                await bb.effect(f"confirm:{region}", "confirm", what)
        return "confirmed"
