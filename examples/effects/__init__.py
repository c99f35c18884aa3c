"""Three writes to the outside that happen once, each as its far side allows."""
