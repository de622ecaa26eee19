//! pool: see the house plan; being built.
