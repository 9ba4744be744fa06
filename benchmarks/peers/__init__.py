"""What altsync is compared with: real libraries, used as their documentation says."""
