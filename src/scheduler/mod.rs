//! scheduler: see the house plan; being built.
