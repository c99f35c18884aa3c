"""A shipment from two warehouses in two regions: reserved in both, then confirmed in both, or in none."""
