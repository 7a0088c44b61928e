"""One train step on one device or many: collectives that also work on none, and the drivers that supply the axis."""
