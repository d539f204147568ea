"""The asking: a `Query` is checked, planned in pure steps, compiled to SQL once for every store, and answered as a `Result`."""
