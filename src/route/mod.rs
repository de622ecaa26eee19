//! route: see the house plan; being built.
