"""What should be on the bridge: fields, tables, flows and their differences. Pure: no I/O, no clock, no event loop."""
