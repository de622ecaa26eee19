//! session: see the house plan; being built.
