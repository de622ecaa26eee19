//! delivery: see the house plan; being built.
