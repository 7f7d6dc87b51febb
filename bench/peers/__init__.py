"""The same networks in other libraries, written the way their users write them."""
