//! UNet2DConditionModel: one timestep per row, cross-attention keys and values computed once per prompt.
