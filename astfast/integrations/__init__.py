"""astfast inside other people's programs: transformers, torch.compile and torch.export."""
