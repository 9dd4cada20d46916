"""The app's management commands, where Django looks for them."""
