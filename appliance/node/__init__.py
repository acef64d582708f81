"""Programs that run on the appliance itself; they import nothing from the rest of the package."""
