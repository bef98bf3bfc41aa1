"""Images: residual networks, patches, vision transformers, augmentation with a key per image."""
