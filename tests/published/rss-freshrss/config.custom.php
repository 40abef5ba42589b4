<?php
return array('title' => 'News');
