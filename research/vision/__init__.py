"""Images: residual networks, patches, vision transformers and their checkpoints, augmentation."""
