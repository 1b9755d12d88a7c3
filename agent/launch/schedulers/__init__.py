"""What each scheduler leaves behind, turned into one model. Each module owns one scheduler, or one family of them. Pure."""
