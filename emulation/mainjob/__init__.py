"""The main job: one host writes the KV of contexts, another fetches the top-k; the truth stays outside the guests."""
