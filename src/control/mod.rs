//! control: see the house plan; being built.
