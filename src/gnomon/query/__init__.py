"""The asking: a `Query` is checked, planned in pure steps, compiled to SQL, and answered as a `Result`."""
