"""What a picture begins with: noise, an image, a mask, a small picture, another model's latents."""
