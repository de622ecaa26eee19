//! listener: see the house plan; being built.
