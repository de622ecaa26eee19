//! event: see the house plan; being built.
