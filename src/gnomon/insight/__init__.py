"""Answers made of several questions. Each file owns one kind; none holds SQL, and none looks at a store by itself."""
