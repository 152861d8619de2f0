"""Hugging Face models whose KV lies in a pool; needs PyTorch and transformers."""
